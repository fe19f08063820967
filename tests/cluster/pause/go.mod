module ignite.build/tests/cluster/pause

go 1.26
