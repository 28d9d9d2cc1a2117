//! The frames that a model's owner and its host process exchange.
