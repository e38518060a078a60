"""One module or package per protocol: router, wire types, errors. No models, no Ray."""
