package export_wasaga_saga_branch

import (
	"fmt"
	"os"
	"runtime/debug"
)

// explain is to be deferred: it ends a panic with its message. The host gives the last lines of standard error as the
// reason of a failed attempt, and Go's own last lines are the far end of the stack trace.
func explain() {
	if cause := recover(); cause != nil {
		debug.PrintStack()
		fmt.Fprintln(os.Stderr, "panic:", cause)
		os.Exit(2)
	}
}
