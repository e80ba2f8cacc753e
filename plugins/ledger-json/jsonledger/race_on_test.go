//go:build race

package jsonledger_test

// raced is how many times less of a long test is done under the race detector.
const raced = 5
