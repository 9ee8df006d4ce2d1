package front

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"inshape/frame"
)

// output is an answer with a body and, of a resource, its version.
type output[T any] struct {
	ETag string `header:"ETag"`
	Body T
}

// invitation is a user and the way for them to choose a password.
type invitation struct {
	User
	Token string `json:"token" doc:"Shown once: /invitation?token=… lets them choose a password, for seven days"`
}

func checkRole(role frame.Role) error {
	if role != frame.Customer && role != frame.Staff && role != frame.Admin {
		return frame.Invalid("role: %q is neither customer, staff nor admin", role)
	}
	return nil
}

// inviteNew makes a user without a password and an invitation for them, and if
// newParty is a name, the party that they belong to.
func (a *accounts) inviteNew(ctx context.Context, u User, newParty string) (User, string, error) {
	err := checkName("name", u.Name)
	if err == nil {
		err = checkEmail(u.Email)
	}
	if err == nil {
		err = checkRole(u.Role)
	}
	if err == nil && newParty != "" {
		err = checkName("party", newParty)
	}
	if err != nil {
		return u, "", err
	}
	err = a.store.Update(ctx, func(tx *frame.Tx) error {
		if newParty != "" {
			p, err := insertParty(tx, newParty)
			if err != nil {
				return err
			}
			u.Party = p.ID
		}
		u, err = insertUser(tx, u, "")
		return err
	})
	if err != nil {
		return u, "", err
	}
	token, err := a.invite(ctx, u.ID)
	return u, token, err
}

// operations are the API: users, parties, keys, and which modules there are.
func (f *front) operations() {
	f.moduleOperations()
	f.userOperations()
	f.partyOperations()
	f.keyOperations()
}

func (f *front) moduleOperations() {
	huma.Register(f.API, huma.Operation{
		OperationID: "list-modules", Method: http.MethodGet, Path: f.Base() + "/modules", Tags: []string{"Shop"},
		Summary: "The modules of the shop, and whether they are up",
	}, func(ctx context.Context, _ *struct{}) (*output[frame.List[frame.ModuleState]], error) {
		return &output[frame.List[frame.ModuleState]]{Body: frame.ListOf(f.neighbours.list(ctx), 1000, nil)}, nil
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "who-am-i", Method: http.MethodGet, Path: f.Base() + "/me", Tags: []string{"Shop"}, Summary: "Who asks, with which rights",
	}, func(ctx context.Context, _ *struct{}) (*output[frame.Identity], error) {
		return &output[frame.Identity]{Body: frame.Who(ctx)}, nil
	})
}

func (f *front) userOperations() {
	tags := []string{"Users"}
	huma.Register(f.API, huma.Operation{
		OperationID: "list-users", Method: http.MethodGet, Path: f.Base() + "/users", Tags: tags, Summary: "Users, newest first", Errors: []int{403},
	}, func(ctx context.Context, in *struct {
		frame.Page
		Search string `query:"search" maxLength:"120" doc:"Only those whose name or address has this in it"`
	},
	) (*output[frame.List[User]], error) {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return nil, err
		}
		list, err := f.accounts.users(ctx, in.Search, in.Page)
		return &output[frame.List[User]]{Body: list}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "invite-user", Method: http.MethodPost, Path: f.Base() + "/users", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a user, who chooses a password by an invitation", Errors: []int{403, 409, 422},
	}, func(ctx context.Context, in *struct {
		Body struct {
			Email string     `json:"email" format:"email" maxLength:"254"`
			Name  string     `json:"name" minLength:"1" maxLength:"120"`
			Role  frame.Role `json:"role" enum:"customer,staff,admin"`
			Party string     `json:"party,omitempty" maxLength:"64" doc:"A customer belongs to one"`
		}
	},
	) (*output[invitation], error) {
		if err := frame.Require(ctx, frame.Admin); err != nil {
			return nil, err
		}
		u, token, err := f.accounts.inviteNew(ctx, User{Email: normalEmail(in.Body.Email), Name: in.Body.Name, Role: in.Body.Role, Party: in.Body.Party}, "")
		if err != nil {
			return nil, err
		}
		return &output[invitation]{frame.ETag(u.Version), invitation{u, token}}, nil
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "read-user", Method: http.MethodGet, Path: f.Base() + "/users/{id}", Tags: tags, Summary: "A user", Errors: []int{403, 404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*output[User], error) {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return nil, err
		}
		u, err := f.accounts.user(ctx, in.ID)
		return &output[User]{frame.ETag(u.Version), u}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "change-user", Method: http.MethodPatch, Path: f.Base() + "/users/{id}", Tags: tags, Summary: "Change a user", Errors: []int{403, 404, 409, 412, 422},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
		frame.Match
		Body UserChange
	},
	) (*output[User], error) {
		if err := frame.Require(ctx, frame.Admin); err != nil {
			return nil, err
		}
		u, err := f.accounts.change(ctx, in.ID, in.Match, in.Body)
		return &output[User]{frame.ETag(u.Version), u}, err
	})
}

func (f *front) partyOperations() {
	tags := []string{"Parties"}
	type body struct {
		Name string `json:"name" minLength:"1" maxLength:"120"`
	}
	huma.Register(f.API, huma.Operation{
		OperationID: "list-parties", Method: http.MethodGet, Path: f.Base() + "/parties", Tags: tags, Summary: "Parties, newest first", Errors: []int{403},
	}, func(ctx context.Context, in *struct {
		frame.Page
		Search string `query:"search" maxLength:"120" doc:"Only those whose name has this in it"`
	},
	) (*output[frame.List[Party]], error) {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return nil, err
		}
		list, err := f.accounts.parties(ctx, in.Search, in.Page)
		return &output[frame.List[Party]]{Body: list}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "create-party", Method: http.MethodPost, Path: f.Base() + "/parties", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make a party", Description: "Takes an Idempotency-Key.", Errors: []int{403, 422},
	}, func(ctx context.Context, in *struct {
		Key  string `header:"Idempotency-Key" maxLength:"128"`
		Body body
	},
	) (*output[Party], error) {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return nil, err
		}
		if err := checkName("name", in.Body.Name); err != nil {
			return nil, err
		}
		p, err := frame.Once(ctx, f.Store, func(tx *frame.Tx) (Party, error) { return insertParty(tx, in.Body.Name) })
		return &output[Party]{frame.ETag(p.Version), p}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "read-party", Method: http.MethodGet, Path: f.Base() + "/parties/{id}", Tags: tags, Summary: "A party", Errors: []int{404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*output[Party], error) {
		if !frame.Who(ctx).Sees(in.ID) {
			return nil, frame.NotFound("there is no party %s", in.ID)
		}
		p, err := f.accounts.party(ctx, in.ID)
		return &output[Party]{frame.ETag(p.Version), p}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "change-party", Method: http.MethodPatch, Path: f.Base() + "/parties/{id}", Tags: tags, Summary: "Rename a party", Errors: []int{403, 404, 412, 422},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
		frame.Match
		Body body
	},
	) (*output[Party], error) {
		if err := frame.Require(ctx, frame.Staff); err != nil {
			return nil, err
		}
		if err := checkName("name", in.Body.Name); err != nil {
			return nil, err
		}
		if err := f.accounts.renameParty(ctx, in.ID, in.Match, in.Body.Name); err != nil {
			return nil, err
		}
		p, err := f.accounts.party(ctx, in.ID)
		return &output[Party]{frame.ETag(p.Version), p}, err
	})
}

func (f *front) keyOperations() {
	tags := []string{"API keys"}
	huma.Register(f.API, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: f.Base() + "/keys", Tags: tags, Summary: "API keys, newest first, without what is secret", Errors: []int{403},
	}, func(ctx context.Context, in *frame.Page) (*output[frame.List[Key]], error) {
		if err := frame.Require(ctx, frame.Admin); err != nil {
			return nil, err
		}
		list, err := f.accounts.keys(ctx, *in)
		return &output[frame.List[Key]]{Body: list}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: f.Base() + "/keys", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Make an API key", Errors: []int{403, 422},
	}, func(ctx context.Context, in *struct {
		Body struct {
			Name  string     `json:"name" minLength:"1" maxLength:"120" doc:"What it is for"`
			Role  frame.Role `json:"role" enum:"customer,staff,admin"`
			Party string     `json:"party,omitempty" maxLength:"64" doc:"Whose things it sees, if its role is customer"`
		}
	},
	) (*output[Key], error) {
		if err := frame.Require(ctx, frame.Admin); err != nil {
			return nil, err
		}
		k, err := f.accounts.makeKey(ctx, Key{Name: in.Body.Name, Role: in.Body.Role, Party: in.Body.Party})
		return &output[Key]{Body: k}, err
	})
	huma.Register(f.API, huma.Operation{
		OperationID: "revoke-key", Method: http.MethodDelete, Path: f.Base() + "/keys/{id}", Tags: tags, Summary: "Make a key worthless", Errors: []int{403, 404},
	}, func(ctx context.Context, in *struct {
		ID string `path:"id" maxLength:"64"`
	},
	) (*struct{}, error) {
		if err := frame.Require(ctx, frame.Admin); err != nil {
			return nil, err
		}
		return nil, f.accounts.revoke(ctx, in.ID)
	})
}
