// Package decision says what a payload comes to. It knows nothing of WebAssembly, so `go test` runs it as it is.
package decision

import (
	"encoding/json"
	"errors"
)

// The reasons for which a payload is rejected.
var (
	ErrInvalid   = errors.New("invalid request")
	ErrSimulated = errors.New("simulated failure")
)

// amountMax is the largest amount that goes through.
const amountMax = 500

// Record is what is kept of an accepted payload.
type Record struct {
	Amount   int64  `json:"amount"`
	Customer string `json:"customer"`
}

// Decide reads a payload, and says with an error if it is to be rejected.
func Decide(payload string) (Record, error) {
	// A map, and not a struct: a struct would take "Amount" for "amount", and null for zero.
	var members map[string]json.RawMessage
	if err := json.Unmarshal([]byte(payload), &members); err != nil {
		return Record{}, ErrInvalid
	}
	amount := member[int64](members, "amount")
	customer := new(string)
	if _, named := members["customer"]; named {
		customer = member[string](members, "customer")
	}
	if amount == nil || *amount < 0 || customer == nil {
		return Record{}, ErrInvalid
	}
	record := Record{Amount: *amount, Customer: *customer}
	if record.Amount > amountMax {
		return record, ErrSimulated
	}
	return record, nil
}

// member returns the member of that name if there is one and it is a T.
func member[T any](members map[string]json.RawMessage, name string) *T {
	var value *T
	if json.Unmarshal(members[name], &value) != nil {
		return nil
	}
	return value
}
