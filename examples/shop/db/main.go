// Command db keeps the orders of the example product: a small store of JSON
// records under keys, in one file on the volume, synced before it answers.
//
//	GET    /records            all records, by key
//	GET    /records/KEY        one
//	PUT    /records/KEY        body: the value; If-Match: "REVISION" of what it replaces, "0" for nothing
//	DELETE /records/KEY
//	GET    /healthz            without the token
//
// Every other request carries the token in DB_TOKEN: "Authorization: Bearer TOKEN".
package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"

	"bulkhead/examples/shop"
)

func main() {
	os.Exit(shop.Main(":7000", func() (http.Handler, error) {
		token := os.Getenv("DB_TOKEN")
		if token == "" {
			return nil, errors.New("DB_TOKEN is empty: give db, web and stats the same long random text")
		}
		j, err := openJournal(cmp.Or(os.Getenv("DATA"), "/data"))
		if err != nil {
			return nil, fmt.Errorf("open the records: %w", err)
		}
		return handler(j, token), nil
	}))
}

var keyPattern = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

func handler(j *journal, token string) http.Handler {
	records := http.NewServeMux()
	records.HandleFunc("GET /records", func(w http.ResponseWriter, _ *http.Request) { answer(w, j.all()) })
	records.HandleFunc("GET /records/{key}", func(w http.ResponseWriter, r *http.Request) {
		record, err := j.get(r.PathValue("key"))
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, record)
	})
	records.HandleFunc("PUT /records/{key}", func(w http.ResponseWriter, r *http.Request) {
		key := r.PathValue("key")
		value, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxValue))
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			http.Error(w, "the value is too large", http.StatusRequestEntityTooLarge)
			return
		case err != nil || !json.Valid(value):
			http.Error(w, "the value is no JSON", http.StatusBadRequest)
			return
		case !keyPattern.MatchString(key):
			http.Error(w, "a key is 1 to 64 letters, digits and hyphens", http.StatusBadRequest)
			return
		}
		base := int64(-1)
		if match := r.Header.Get("If-Match"); match != "" {
			if base, err = strconv.ParseInt(strings.Trim(match, `"`), 10, 64); err != nil || base < 0 {
				http.Error(w, "If-Match is no revision", http.StatusBadRequest)
				return
			}
		}
		record, err := j.put(key, value, base)
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, record)
	})
	records.HandleFunc("DELETE /records/{key}", func(w http.ResponseWriter, r *http.Request) {
		if err := j.delete(r.PathValue("key")); err != nil {
			refuse(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := j.healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	want := sha256.Sum256([]byte("Bearer " + token))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get("Authorization")))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		records.ServeHTTP(w, r)
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		slog.Error("answer", "error", err)
	}
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, errNotFound):
		status = http.StatusNotFound
	case errors.Is(err, errChanged):
		status = http.StatusPreconditionFailed
	case errors.Is(err, errFull):
		status = http.StatusInsufficientStorage
	default:
		slog.Error("write record", "error", err)
	}
	http.Error(w, err.Error(), status)
}
