//go:build !race

package jsonledger_test

const raced = 1
