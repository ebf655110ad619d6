package decision

import (
	"strings"
	"testing"
)

func TestAccepted(t *testing.T) {
	for payload, want := range map[string]Record{
		`{"amount":100}`:                                           {Amount: 100},
		` { "amount" : 0 , "customer" : "" } `:                     {},
		`{"customer":"Zo\u00eb \ud83d\ude00","amount":500}`:        {Amount: 500, Customer: "Zoë 😀"},
		`{"amount":1,"customer":"\uFFFD\\ufffd�"}`:                 {Amount: 1, Customer: `�\ufffd�`},
		`{"amount":1,"note":"` + strings.Repeat("x", 1<<20) + `"}`: {Amount: 1},
	} {
		if got, err := Decide(payload); err != nil || got != want {
			t.Errorf("%.40s: got %v, %v", payload, got, err)
		}
	}
}

func TestJSON(t *testing.T) {
	record := Record{Amount: 1, Customer: "A & B <Zoë>"}
	if text, err := record.JSON(); err != nil || text != `{"amount":1,"customer":"A & B <Zoë>"}` {
		t.Errorf("got %s, %v", text, err)
	}
}

func TestInvalid(t *testing.T) {
	for _, payload := range []string{
		``, `amount`, `null`, `100`, `[]`, `{}`, `{"amount":100`, `{"amount":100} x`,
		`{"amount":null}`, `{"amount":true}`, `{"amount":"100"}`, `{"amount":-1}`, `{"amount":1.5}`,
		`{"amount":9223372036854775808}`, `{"Amount":100}`, `{"amount":100,"customer":null}`, `{"amount":100,"customer":7}`,
		`[100,"Zoë"]`, `{"amount":1,"customer":"\ud800"}`, `{"amount":1,"customer":"\ufffd\\ufffd\udc00"}`,
	} {
		if _, err := Decide(payload); err != ErrInvalid {
			t.Errorf("%s: got %v", payload, err)
		}
	}
}

func TestCustomer(t *testing.T) {
	for length, want := range map[int]error{500: nil, 501: ErrInvalid} {
		if _, err := Decide(`{"amount":1,"customer":"` + strings.Repeat("é", length) + `"}`); err != want {
			t.Errorf("%d times 2 bytes: got %v", length, err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	if record, err := Decide(`{"amount":501}`); err != ErrSimulated || record.Amount != 501 {
		t.Errorf("got %v, %v", record, err)
	}
}
