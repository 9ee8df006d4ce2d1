package shop

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The answers of the database that callers tell apart.
var (
	ErrNotFound = errors.New("no such order")
	ErrChanged  = errors.New("the order was changed meanwhile")
	ErrFull     = errors.New("no room for more orders")
)

// Record is a value in the database.
type Record struct {
	Key      string          `json:"key"`
	Revision int64           `json:"revision"` // grows with every change of the database
	Value    json.RawMessage `json:"value"`
}

// Client speaks to db.
type Client struct {
	base, token string
	http        http.Client
}

// NewClient is a client of the database at base, such as "http://db:7000".
func NewClient(base, token string) *Client {
	return &Client{base: strings.TrimSuffix(base, "/"), token: token, http: http.Client{Timeout: 5 * time.Second}}
}

// Orders are all orders, oldest first.
func (c *Client) Orders(ctx context.Context) ([]Order, error) {
	var records []Record
	if err := c.do(ctx, "GET", "/records", nil, nil, &records); err != nil {
		return nil, err
	}
	orders := make([]Order, 0, len(records))
	for _, record := range records {
		order, err := record.order()
		if err != nil {
			return nil, err
		}
		orders = append(orders, order)
	}
	slices.SortFunc(orders, func(a, b Order) int { return cmp.Compare(a.ID, b.ID) })
	return orders, nil
}

// Order is one order; ErrNotFound if there is none.
func (c *Client) Order(ctx context.Context, id string) (Order, error) {
	var record Record
	if err := c.do(ctx, "GET", "/records/"+url.PathEscape(id), nil, nil, &record); err != nil {
		return Order{}, err
	}
	return record.order()
}

func (r Record) order() (Order, error) {
	var order Order
	if err := json.Unmarshal(r.Value, &order); err != nil {
		return Order{}, fmt.Errorf("read order %s: %w", r.Key, err)
	}
	order.ID, order.Revision = r.Key, r.Revision
	return order, nil
}

// Put stores an order based on its Revision, 0 for a new one, and returns it as
// stored. ErrChanged if somebody else was faster.
func (c *Client) Put(ctx context.Context, order Order) (Order, error) {
	content, err := json.Marshal(order)
	if err != nil {
		return Order{}, err
	}
	var record Record
	header := http.Header{"If-Match": {strconv.Quote(strconv.FormatInt(order.Revision, 10))}}
	if err := c.do(ctx, "PUT", "/records/"+url.PathEscape(order.ID), header, content, &record); err != nil {
		return Order{}, err
	}
	return record.order()
}

// Delete removes an order; one that is gone already is no error.
func (c *Client) Delete(ctx context.Context, id string) error {
	err := c.do(ctx, "DELETE", "/records/"+url.PathEscape(id), nil, nil, nil)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Healthy tells whether the database answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.do(ctx, "GET", "/healthz", nil, nil, nil)
}

func (c *Client) do(ctx context.Context, method, path string, header http.Header, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK, http.StatusNoContent:
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusPreconditionFailed:
		return ErrChanged
	case http.StatusInsufficientStorage:
		return ErrFull
	default:
		message, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("ask the database: %s: %s", response.Status, bytes.TrimSpace(message))
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("read the database's answer: %w", err)
	}
	return nil
}
