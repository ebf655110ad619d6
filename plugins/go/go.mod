module branch

go 1.26

require go.bytecodealliance.org/pkg v0.4.0

// What the bindings use at run time; `make tools` puts it there.
replace go.bytecodealliance.org/pkg => ./.tools/pkg
