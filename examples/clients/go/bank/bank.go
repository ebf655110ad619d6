// Package bank is shared by the examples: accounts in a database, and queries of sagas.
package bank

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/go-sql-driver/mysql"
)

// Server is the address of Wasaga's HTTP API for DTM's clients.
var Server = Env("WASAGA_URL", "http://127.0.0.1:36789") + "/api/dtmsvr"

// Env returns an environment variable, or a default if it is not set.
func Env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// Bank keeps accounts in a database that has ../schema.sql.
type Bank struct{ DB *sql.DB }

// Open connects by the socket that MYSQL_UNIX_PORT names.
func Open() Bank {
	config := mysql.NewConfig()
	config.User, config.Net, config.Addr = "root", "unix", os.Getenv("MYSQL_UNIX_PORT")
	db, err := sql.Open("mysql", config.FormatDSN())
	Must(err)
	Must(db.Ping())
	return Bank{db}
}

// Create adds an account.
func (b Bank) Create(account string, balance int64) {
	_, err := b.DB.Exec("insert into bank.account values (?, ?)", account, balance)
	Must(err)
}

// Balance returns the balance of an account.
func (b Bank) Balance(account string) (balance int64) {
	Must(b.DB.QueryRow("select balance from bank.account where name = ?", account).Scan(&balance))
	return balance
}

// Change adds an amount, which may be negative, to the balance of an account. The client's barrier writes its row in the
// same transaction. The error is a rejection if the account does not exist.
func (b Bank) Change(barrier *dtmcli.BranchBarrier, account string, amount int64) error {
	return barrier.CallWithDB(b.DB, func(tx *sql.Tx) error {
		result, err := tx.Exec("update bank.account set balance = balance + ? where name = ?", amount, account)
		if err != nil {
			return err
		}
		if changed, err := result.RowsAffected(); err != nil || changed == 1 {
			return err
		}
		return fmt.Errorf("there is no account %s %w", account, dtmcli.ErrFailure)
	})
}

// Saga is the result of Query.
type Saga struct {
	Status, Reason string
	// The status of each branch, in DTM's order: the compensation of a step comes before its action.
	Branches []string
}

// Query polls a saga until it has ended.
func Query(gid string) (saga Saga) {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		response, err := http.Get(Server + "/query?gid=" + url.QueryEscape(gid))
		Must(err)
		var body struct {
			Transaction struct {
				Status         string `json:"status"`
				RollbackReason string `json:"rollback_reason"`
			} `json:"transaction"`
			Branches []struct {
				Status string `json:"status"`
			} `json:"branches"`
		}
		Must(json.NewDecoder(response.Body).Decode(&body))
		Must(response.Body.Close())
		saga = Saga{Status: body.Transaction.Status, Reason: body.Transaction.RollbackReason}
		for _, branch := range body.Branches {
			saga.Branches = append(saga.Branches, branch.Status)
		}
		if saga.Status == "succeed" || saga.Status == "failed" {
			return saga
		}
	}
	panic(fmt.Sprintf("the saga did not end: %+v", saga))
}

// Must ends the example with an error, if there is one.
func Must(err error) {
	if err != nil {
		panic(err)
	}
}

// Check ends the example if a value is not the expected one.
func Check(found, wanted any) {
	if !reflect.DeepEqual(found, wanted) {
		panic(fmt.Sprintf("%#v is not %#v", found, wanted))
	}
}

// Contains ends the example if a text does not contain a word.
func Contains(text, word string) {
	if !strings.Contains(text, word) {
		panic(fmt.Sprintf("%q does not contain %q", text, word))
	}
}
