// Package decision decides about a payload. It does not depend on WebAssembly, so neither do the tests.
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

// amountMax is the largest amount that is accepted.
const amountMax = 500

// customerBytesMax is the longest name of a customer, in bytes. The host limits the size of values and outputs.
const customerBytesMax = 1000

// Record is the stored record of an accepted payload.
type Record struct {
	Amount   int64  `json:"amount"`
	Customer string `json:"customer"`
}

// Decide reads a payload. The error is the reason of a rejection.
func Decide(payload string) (Record, error) {
	// A map, since a struct would also accept "Amount", and null for zero.
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

// isWhole reports whether the decoded string is that of its JSON text: half a surrogate pair is decoded as U+FFFD.
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
