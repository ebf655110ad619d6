// Run with: make test-clients
// or by hand, while `make run` is running elsewhere: go run ./plugins

// Command plugins is DTM's Go client, unchanged, with sagas whose branches are Wasaga's two tutorial plugins.
package main

import (
	"fmt"

	"github.com/dtm-labs/client/dtmcli"

	"wasaga/examples/clients/bank"
)

func submit(amount int) (gid string, err error) {
	gid = "go-plugins-" + dtmcli.MustGenGid(bank.Server)
	saga := dtmcli.NewSaga(bank.Server, gid).
		Add("wasm://service-a/try", "wasm://service-a/cancel", map[string]int{"amount": 100}).
		Add("wasm://service-b/try", "wasm://service-b/cancel", map[string]int{"amount": amount})
	saga.WaitResult = true
	return gid, saga.Submit()
}

func main() {
	// Service B accepts up to 500.
	gid, err := submit(500)
	bank.Must(err)
	bank.Check(bank.Query(gid), bank.Saga{Status: "succeed", Branches: []string{"prepared", "succeed", "prepared", "succeed"}})

	// It rejects 501, and service A is compensated.
	gid, err = submit(501)
	bank.Contains(err.Error(), "simulated failure")
	bank.Check(bank.Query(gid), bank.Saga{
		Status:   "failed",
		Reason:   "url:wasm://service-b/try return failed: simulated failure FAILURE",
		Branches: []string{"succeed", "succeed", "succeed", "failed"},
	})

	// The client's concurrent form: A waits for B, so a rejecting B leaves nothing to compensate.
	gid = dtmcli.MustGenGid(bank.Server)
	err = dtmcli.NewSaga(bank.Server, gid).
		Add("wasm://service-a/try", "wasm://service-a/cancel", map[string]int{"amount": 100}).
		Add("wasm://service-b/try", "wasm://service-b/cancel", map[string]int{"amount": 501}).
		SetConcurrent().AddBranchOrder(0, []int{1}).Submit()
	bank.Must(err)
	bank.Check(bank.Query(gid).Status, "failed")
	bank.Check(bank.Query(gid).Branches[1], "prepared")
	fmt.Println("go-plugins: one saga succeeded, two were rolled back")
}
