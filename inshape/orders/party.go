package orders

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
)

// Party is somebody who orders: a person or a company. A customer's identity
// names the party that they belong to.
type Party struct {
	ID      string    `json:"id" readOnly:"true"`
	Name    string    `json:"name" minLength:"1" maxLength:"120"`
	Company string    `json:"company,omitempty" maxLength:"120"`
	Email   string    `json:"email,omitempty" maxLength:"254"`
	Phone   string    `json:"phone,omitempty" maxLength:"40"`
	TaxID   string    `json:"tax_id,omitempty" maxLength:"40" doc:"VAT or other tax number"`
	At      time.Time `json:"at" readOnly:"true"`
	Version int64     `json:"version" readOnly:"true"`
}

// Address is where parcels or invoices go.
type Address struct {
	ID       string `json:"id,omitempty" readOnly:"true"`
	Name     string `json:"name" minLength:"1" maxLength:"120" doc:"Who receives it"`
	Company  string `json:"company,omitempty" maxLength:"120"`
	Line1    string `json:"line1" minLength:"1" maxLength:"120" doc:"Street and number"`
	Line2    string `json:"line2,omitempty" maxLength:"120"`
	Postcode string `json:"postcode,omitempty" maxLength:"20" doc:"Not every country has them"`
	City     string `json:"city" minLength:"1" maxLength:"120"`
	Region   string `json:"region,omitempty" maxLength:"120"`
	Country  string `json:"country" pattern:"^[A-Z]{2}$" patternDescription:"two capital letters (ISO 3166-1)"`
	Phone    string `json:"phone,omitempty" maxLength:"40"`
}

type partyAnswer struct {
	ETag string `header:"ETag"`
	Body Party
}

func partyOr(p Party, err error) (*partyAnswer, error) {
	if err != nil {
		return nil, err
	}
	return &partyAnswer{frame.ETag(p.Version), p}, nil
}

func (m *module) partyOperations() {
	api, base, tags := m.server.API, m.server.Base(), []string{"Parties"}
	huma.Register(api, huma.Operation{
		OperationID: "create-party", Method: http.MethodPost, Path: base + "/parties", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a party that has no account of its own", Errors: []int{403, 422},
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key"`
		Body Party
	},
	) (*partyAnswer, error) {
		p, err := m.createParty(ctx, in.Body)
		return partyOr(p, err)
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-parties", Method: http.MethodGet, Path: base + "/parties", Tags: tags, Summary: "Parties, newest first", Errors: []int{403},
	}, func(ctx context.Context, in *struct {
		frame.Page
		Query string `query:"q" maxLength:"100" doc:"Part of a name, company or email"`
	},
	) (*struct{ Body frame.List[Party] }, error) {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return nil, err
		}
		list, err := m.parties(ctx, in.Query, in.Page)
		return &struct{ Body frame.List[Party] }{list}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "get-party", Method: http.MethodGet, Path: base + "/parties/{id}", Tags: tags, Summary: "A party", Errors: []int{404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*partyAnswer, error) {
		p, err := m.party(ctx, in.ID)
		return partyOr(p, err)
	})
	huma.Register(api, huma.Operation{
		OperationID: "change-party", Method: http.MethodPut, Path: base + "/parties/{id}", Tags: tags, Summary: "Change a party", Errors: []int{404, 412, 422},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
		frame.Match
		Body Party
	},
	) (*partyAnswer, error) {
		p, err := m.changeParty(ctx, in.ID, in.Match, in.Body)
		return partyOr(p, err)
	})
	huma.Register(api, huma.Operation{
		OperationID: "create-address", Method: http.MethodPost, Path: base + "/parties/{id}/addresses", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Add an address", Errors: []int{404, 409, 422},
	}, func(ctx context.Context, in *struct {
		ID   string `path:"id" maxLength:"64"`
		Key  string `header:"Idempotency-Key"`
		Body Address
	},
	) (*struct{ Body Address }, error) {
		if err := m.ensureParty(ctx, in.ID); err != nil {
			return nil, err
		}
		a, err := frame.Once(ctx, m.store, func(tx *frame.Tx) (Address, error) { return addAddress(tx, in.ID, in.Body) })
		return &struct{ Body Address }{a}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-addresses", Method: http.MethodGet, Path: base + "/parties/{id}/addresses", Tags: tags, Summary: "A party's addresses, newest first", Errors: []int{404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*struct{ Body frame.List[Address] }, error) {
		if err := m.ensureParty(ctx, in.ID); err != nil {
			return nil, err
		}
		list, err := m.addresses(ctx, in.ID)
		return &struct{ Body frame.List[Address] }{frame.ListOf(list, maxAddresses, nil)}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "delete-address", Method: http.MethodDelete, Path: base + "/parties/{id}/addresses/{address}", Tags: tags,
		Summary: "Forget an address; orders keep theirs", Errors: []int{404},
	}, func(ctx context.Context, in *struct {
		ID      string `path:"id" maxLength:"64"`
		Address string `path:"address" maxLength:"64"`
	},
	) (*struct{}, error) {
		return nil, m.deleteAddress(ctx, in.ID, in.Address)
	})
}

func (m *module) createParty(ctx context.Context, in Party) (Party, error) {
	if err := frame.Require(ctx, frame.Staff); err != nil {
		return Party{}, err
	}
	return frame.Once(ctx, m.store, func(tx *frame.Tx) (Party, error) {
		in.ID, in.Version = frame.NewID("pty"), 0
		return in, putParty(tx, &in)
	})
}

const maxAddresses = 50

// putParty writes a party as the version after p.Version; 0 is a new one.
func putParty(tx *frame.Tx, p *Party) error {
	if p.Version == 0 {
		p.At = time.Now().UTC()
	}
	p.Version++
	what := "party.change"
	if p.Version == 1 {
		what = "party.create"
	}
	_, err := tx.Exec(`INSERT INTO party (id, name, company, email, phone, tax_id, at, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, company = excluded.company, email = excluded.email, phone = excluded.phone,
			tax_id = excluded.tax_id, version = excluded.version`,
		p.ID, p.Name, p.Company, p.Email, p.Phone, p.TaxID, frame.Stamp(p.At), p.Version)
	if err != nil {
		return fmt.Errorf("save party: %w", err)
	}
	return tx.Audit(what, p.ID, "%s", p.Name)
}

const partyColumns = "id, name, company, email, phone, tax_id, at, version"

func scanParty(row frame.Row) (Party, error) {
	var p Party
	var at string
	err := row.Scan(&p.ID, &p.Name, &p.Company, &p.Email, &p.Phone, &p.TaxID, &at, &p.Version)
	p.At = frame.ParseStamp(at)
	return p, err
}

func loadParty(tx *sql.Tx, id string) (Party, error) {
	p, err := scanParty(tx.QueryRow("SELECT "+partyColumns+" FROM party WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return p, frame.NotFound("there is no party %s", id)
	}
	if err != nil {
		return p, fmt.Errorf("load party: %w", err)
	}
	return p, nil
}

// party is one that the asker may see. A customer's own is made when it is
// first asked for, from what the front says of them.
func (m *module) party(ctx context.Context, id string) (Party, error) {
	who := frame.Who(ctx)
	if !who.Sees(id) {
		return Party{}, frame.NotFound("there is no party %s", id)
	}
	var p Party
	err := m.store.View(ctx, func(tx *sql.Tx) (err error) {
		p, err = loadParty(tx, id)
		return err
	})
	if err == nil || who.Party != id || frame.AsProblem(err).Status != http.StatusNotFound {
		return p, err
	}
	err = m.store.Update(ctx, func(tx *frame.Tx) error {
		if p, err = loadParty(tx.Tx, id); err == nil {
			return nil // somebody was faster
		}
		p = Party{ID: id, Name: who.Name, Email: who.Email}
		return putParty(tx, &p)
	})
	return p, err
}

func (m *module) ensureParty(ctx context.Context, id string) error {
	_, err := m.party(ctx, id)
	return err
}

func (m *module) parties(ctx context.Context, query string, page frame.Page) (frame.List[Party], error) {
	var list []Party
	err := m.store.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = frame.Select(tx, scanParty, "SELECT "+partyColumns+` FROM party WHERE (?1 = '' OR id < ?1)
			AND (?2 = '' OR instr(lower(name || ' ' || company || ' ' || email), lower(?2)) > 0) ORDER BY id DESC LIMIT ?3`, page.After, query, page.Limit+1)
		return err
	})
	if err != nil {
		return frame.List[Party]{}, fmt.Errorf("list parties: %w", err)
	}
	return frame.ListOf(list, page.Limit, func(p Party) string { return p.ID }), nil
}

// addAddress keeps an address. One that the party has already is not kept twice.
func addAddress(tx *frame.Tx, party string, a Address) (Address, error) {
	a.ID = ""
	value, err := json.Marshal(a)
	if err != nil {
		return a, fmt.Errorf("make address: %w", err)
	}
	err = tx.QueryRow("SELECT id FROM address WHERE party = ? AND value = ?", party, string(value)).Scan(&a.ID)
	if !errors.Is(err, sql.ErrNoRows) {
		return a, err
	}
	var count int
	if err := tx.QueryRow("SELECT count(*) FROM address WHERE party = ?", party).Scan(&count); err != nil {
		return a, fmt.Errorf("count addresses: %w", err)
	}
	if count >= maxAddresses {
		return a, frame.Conflict("there are %d addresses already", count).Advise("Delete one that is not used any more.")
	}
	a.ID = frame.NewID("adr")
	if _, err := tx.Exec("INSERT INTO address (id, party, value, at) VALUES (?, ?, ?, ?)", a.ID, party, string(value), frame.Stamp(time.Now())); err != nil {
		return a, fmt.Errorf("save address: %w", err)
	}
	return a, tx.Audit("address.create", a.ID, "of %s", party)
}

func (m *module) addresses(ctx context.Context, party string) ([]Address, error) {
	var list []Address
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT id, value FROM address WHERE party = ? ORDER BY id DESC", party)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, value string
			if err := rows.Scan(&id, &value); err != nil {
				return err
			}
			var a Address
			if err := json.Unmarshal([]byte(value), &a); err != nil {
				return err
			}
			a.ID = id
			list = append(list, a)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return list, nil
}

// changeParty replaces what may be changed of a party.
func (m *module) changeParty(ctx context.Context, id string, match frame.Match, in Party) (Party, error) {
	if err := m.ensureParty(ctx, id); err != nil {
		return Party{}, err
	}
	var p Party
	err := m.store.Update(ctx, func(tx *frame.Tx) error {
		old, err := loadParty(tx.Tx, id)
		if err != nil {
			return err
		}
		if err := match.Check(old.Version); err != nil {
			return err
		}
		p = in
		p.ID, p.At, p.Version = old.ID, old.At, old.Version
		return putParty(tx, &p)
	})
	return p, err
}

func (m *module) deleteAddress(ctx context.Context, party, id string) error {
	if err := m.ensureParty(ctx, party); err != nil {
		return err
	}
	return m.store.Update(ctx, func(tx *frame.Tx) error {
		result, err := tx.Exec("DELETE FROM address WHERE id = ? AND party = ?", id, party)
		if err != nil {
			return fmt.Errorf("delete address: %w", err)
		}
		n, err := result.RowsAffected()
		if err != nil {
			return fmt.Errorf("delete address: %w", err)
		}
		if n == 0 {
			return frame.NotFound("there is no address %s", id)
		}
		return tx.Audit("address.delete", id, "of %s", party)
	})
}
