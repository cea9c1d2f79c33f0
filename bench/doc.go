// Command bench does the same work on peercache and on what Go programs use instead of it, and prints tables.
//
//	go run .                        every section, printed
//	go run . -only hit,memory       some of them
//	go run . -write RESULTS.md      every section, into a file
//	go run . -traces DIR            with the hit ratios on the traces in a folder
//
// A section is one question: how fast a hit is, how many bytes an entry takes. A contender is one that answers it. What
// a contender reaches in one measurement is a set of figures. Each measurement runs in a process of its own, so that no
// contender bears the garbage of another, and the contenders of a section take turns within each round, so that what
// disturbs the machine disturbs them all. A table shows the median of the rounds, their range, and the ratio to the best
// competitor, which is one that is not ours.
package main
