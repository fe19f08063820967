module ignite.build/fetch

go 1.25
