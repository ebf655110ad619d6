// Package decision says what a payload comes to. It knows nothing of WebAssembly, so `go test` runs it as it is.
package decision

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

// The reasons for which a payload is rejected.
var (
	ErrInvalid   = errors.New("invalid request")
	ErrSimulated = errors.New("simulated failure")
)

// amountMax is the largest amount that goes through.
const amountMax = 500

// customerBytesMax is how many bytes a customer's name has at most: what the host takes as a value and as an output has a
// limit too.
const customerBytesMax = 1000

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
	if amount == nil || *amount < 0 || customer == nil || !isWhole(members["customer"], *customer) {
		return Record{}, ErrInvalid
	}
	if len(*customer) > customerBytesMax {
		return Record{}, ErrInvalid
	}
	record := Record{Amount: *amount, Customer: *customer}
	if record.Amount > amountMax {
		return record, ErrSimulated
	}
	return record, nil
}

// JSON is the record as JSON text.
func (record Record) JSON() (string, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	// Without this, "&", "<" and ">" are escaped for web pages.
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(record)
	return strings.TrimSuffix(text.String(), "\n"), err
}

// isWhole says whether a string is all that its JSON text spells: half a surrogate pair is decoded as U+FFFD.
func isWhole(text json.RawMessage, decoded string) bool {
	const stopgap = "\uFFFD"
	spelled := strings.ToLower(strings.ReplaceAll(string(text), `\\`, ""))
	return strings.Count(decoded, stopgap) == strings.Count(spelled, stopgap)+strings.Count(spelled, `\ufffd`)
}

// member returns the member of that name if there is one and it is a T.
func member[T any](members map[string]json.RawMessage, name string) *T {
	var value *T
	if json.Unmarshal(members[name], &value) != nil {
		return nil
	}
	return value
}
