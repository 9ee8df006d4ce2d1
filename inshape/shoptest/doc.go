// Package shoptest tries a whole shop as its people do: the real programs as
// processes, and a real browser. It holds tests only; start at browser_test.go.
package shoptest
