package main

import "example.invalid/nothing"

func main() { nothing.Do() }
