module ignite.build/tests/cluster/serve

go 1.26
