"""Where inventories come from, one module a kind of place. Each can say "no answer" differently from "nothing there"."""
