// Command branch is one step of a saga, built as a WebAssembly component that the Wasaga host runs.
package main

// The generated package exports `try` and `cancel`, and calls those of exports/export_wasaga_saga_branch.
import _ "branch/exports/wit_exports"

// main is never called: the host calls the exported functions.
func main() {}
