package main

import "testing"

func TestBurnUsesTheCPUItWasAskedFor(t *testing.T) {
	before, err := processCPU()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		micros, err := burn(1000)
		if err != nil {
			t.Fatal(err)
		}
		if micros < 1000 {
			t.Errorf("burned %d us, want at least 1000", micros)
		}
	}
	after, err := processCPU()
	if err != nil {
		t.Fatal(err)
	}
	if after-before < 5000 {
		t.Errorf("the process used %d us, want at least 5000", after-before)
	}
}
