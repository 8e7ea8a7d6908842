"""One file per arrow of the flow: Ray wiring only; what is computed stands in cmir."""
