// Package export_wasaga_saga_branch has the functions that the host calls. The generated code requires its name.
package export_wasaga_saga_branch

import (
	"fmt"

	"branch/decision"
	"branch/imports/wasaga_saga_branch"
	"branch/imports/wasi_logging_logging"

	"go.bytecodealliance.org/pkg/wit/types"
)

type (
	call    = wasaga_saga_branch.Call
	failure = wasaga_saga_branch.Failure
	output  = wit_types.Option[string]
)

// Try does the work of the step: it stores the record.
func Try(call call) wit_types.Result[output, failure] {
	record, err := decision.Decide(call.Payload)
	switch err {
	case nil:
		fmt.Printf("try amount=%d customer=%s\n", record.Amount, record.Customer)
	case decision.ErrSimulated:
		fmt.Printf("try amount=%d: %v\n", record.Amount, err)
		return rejected(err)
	default:
		fmt.Printf("try: %v\n", err)
		return rejected(err)
	}

	text, err := record.JSON()
	if err != nil {
		return unavailable[output](err)
	}
	if err := write(key(call), []byte(text)); err != nil {
		return unavailable[output](err)
	}
	wasi_logging_logging.Log(wasi_logging_logging.Level_Debug, "", "wrote "+key(call))
	return wit_types.Ok[output, failure](wit_types.Some(text))
}

// Cancel takes back what Try did. The store shows whether there is something to take back. Try's output would show it too,
// but only in the world `contained`: in the world `plugin` it is also missing if it is not known whether Try took effect.
func Cancel(call call, _ output) wit_types.Result[wit_types.Unit, failure] {
	found, err := remove(key(call))
	if err != nil {
		return unavailable[wit_types.Unit](err)
	}
	if found {
		fmt.Println("cancel: released")
	} else {
		fmt.Println("cancel: nothing to release")
	}
	return wit_types.Ok[wit_types.Unit, failure](wit_types.Unit{})
}

// key is the key of the step's record. A repetition of Try writes the same key again.
func key(call call) string {
	return call.Gid + "/" + call.BranchId
}

func rejected(reason error) wit_types.Result[output, failure] {
	return wit_types.Err[output](wasaga_saga_branch.MakeFailureRejected(reason.Error()))
}

func unavailable[T any](err error) wit_types.Result[T, failure] {
	return wit_types.Err[T](wasaga_saga_branch.MakeFailureUnavailable(err.Error()))
}
