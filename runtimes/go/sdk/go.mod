module ignite

go 1.20
