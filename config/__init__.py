"""Values that every other package reads: errors, options, sampling parameters, model descriptions. No torch, no Ray."""
