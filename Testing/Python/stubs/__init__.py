"""Methods that declare what is hardest later, with next to no science: they prove that the contract is wide enough."""
