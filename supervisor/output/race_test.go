//go:build race

package output

// flood is how much a child pours out in TestFlood.
const flood = 256 << 20
