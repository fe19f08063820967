"""The wire contract: `.proto` files and the code generated from them (`python -m builder.contract.generate`)."""
