package export_wasaga_saga_branch

import (
	"errors"

	"branch/imports/wasi_keyvalue_store"

	"go.bytecodealliance.org/pkg/wit/types"
)

// bucket is this plugin's own; no other plugin sees it.
const bucket = "default"

// write stores a value.
func write(key string, value []byte) error {
	store, err := result(wasi_keyvalue_store.Open(bucket))
	if err != nil {
		return err
	}
	defer store.Drop()
	_, err = result(store.Set(key, value))
	return err
}

// remove deletes a key if it exists, and reports whether it did.
func remove(key string) (bool, error) {
	store, err := result(wasi_keyvalue_store.Open(bucket))
	if err != nil {
		return false, err
	}
	defer store.Drop()
	found, err := result(store.Exists(key))
	if found {
		_, err = result(store.Delete(key))
	}
	return found, err
}

// result converts a result of the store to a value and an error.
func result[T any](result wit_types.Result[T, wasi_keyvalue_store.Error]) (value T, err error) {
	if result.IsOk() {
		return result.Ok(), nil
	}
	switch err := result.Err(); err.Tag() {
	case wasi_keyvalue_store.Error_NoSuchStore:
		return value, errors.New("no such store")
	case wasi_keyvalue_store.Error_AccessDenied:
		return value, errors.New("access denied")
	default:
		return value, errors.New(err.Other())
	}
}
