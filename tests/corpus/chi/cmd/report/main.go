// The other program, which prints and ends.
package main

import "fmt"

func main() {
	fmt.Println("no readers yet")
}
