// Run with: make test-clients
// or by hand, while `make run` is running elsewhere, with a MySQL or MariaDB that has ../schema.sql:
// MYSQL_UNIX_PORT=/run/mysqld/mysqld.sock go run ./barrier

// Command barrier is DTM's Go client, unchanged, with HTTP branches that it serves behind the client's own barrier.
//
// Money moves between two accounts of a database. In the first transfer a response is lost, so the host calls again, and
// the barrier finds that the work is already done. The second transfer goes to an account that does not exist, so both
// steps are compensated, and the barrier finds that the second one had no effect.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/dtm-labs/client/dtmcli"

	"wasaga/examples/clients/bank"
)

// order is the payload of a step.
type order struct {
	Account    string `json:"account"`
	Amount     int64  `json:"amount"`
	LoseAnswer bool   `json:"lose_answer"`
}

// service serves /take and /give, for actions and compensations; the parameter `op` says which.
type service struct {
	bank    bank.Bank
	address string
	mutex   sync.Mutex
	calls   []string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code, result := dtmcli.Result2HttpJSON(s.handle(r))
	w.WriteHeader(code)
	bank.Must(json.NewEncoder(w).Encode(result))
}

func (s *service) handle(r *http.Request) any {
	barrier, err := dtmcli.BarrierFromQuery(r.URL.Query())
	if err != nil {
		return err
	}
	var order order
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		return err
	}
	amount := order.Amount
	if (r.URL.Path == "/take") == (barrier.Op == "action") {
		amount = -amount
	}
	first := s.isFirst(r.URL.Path + " " + barrier.Op)
	if err := s.bank.Change(barrier, order.Account, amount); err != nil || !first || !order.LoseAnswer {
		return err
	}
	return errors.New("the answer got lost")
}

// isFirst records a call and reports whether it is the first of its kind.
func (s *service) isFirst(call string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	defer func() { s.calls = append(s.calls, call) }()
	for _, earlier := range s.calls {
		if earlier == call {
			return false
		}
	}
	return true
}

// transfer moves 30. It returns the finished saga and the calls that were made.
func (s *service) transfer(from string, to order) (bank.Saga, []string) {
	s.calls = nil
	gid := "go-barrier-" + dtmcli.MustGenGid(bank.Server)
	bank.Must(dtmcli.NewSaga(bank.Server, gid).
		Add(s.address+"/take", s.address+"/take", order{Account: from, Amount: to.Amount}).
		Add(s.address+"/give", s.address+"/give", to).
		Submit())
	return bank.Query(gid), s.calls
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	bank.Must(err)
	service := &service{bank: bank.Open(), address: "http://" + listener.Addr().String()}
	go http.Serve(listener, service)

	run := dtmcli.MustGenGid(bank.Server)
	alice, bob, nobody := "alice-"+run, "bob-"+run, "nobody-"+run
	service.bank.Create(alice, 100)
	service.bank.Create(bob, 0)

	saga, calls := service.transfer(alice, order{Account: bob, Amount: 30, LoseAnswer: true})
	bank.Check(saga, bank.Saga{Status: "succeed", Branches: []string{"prepared", "succeed", "prepared", "succeed"}})
	bank.Check(calls, []string{"/take action", "/give action", "/give action"})
	bank.Check(service.bank.Balance(alice), int64(70))
	bank.Check(service.bank.Balance(bob), int64(30))

	saga, calls = service.transfer(alice, order{Account: nobody, Amount: 30})
	bank.Check(saga.Status, "failed")
	bank.Check(saga.Branches, []string{"succeed", "succeed", "succeed", "failed"})
	bank.Contains(saga.Reason, "there is no account "+nobody)
	bank.Check(calls, []string{"/take action", "/give action", "/give compensate", "/take compensate"})
	bank.Check(service.bank.Balance(alice), int64(70))
	fmt.Println("go-barrier: one saga succeeded in spite of a lost answer, one was rolled back")
}
