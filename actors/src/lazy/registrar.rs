//! The kernel's [`Registrar`] trait, by which other modules change the loader's catalogue.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use super::error::DeregisterError;
use super::loader::Loader;
use super::messages::{Deregister, Register};
use crate::kernel::{AskError, Handle, LoadError, LoadErrorKind, Registrar, Resource};

/// The loader answers at once unless it is restarting or stopping.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);

/// A deregistration waits for the leases on the resource.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(60);

impl Registrar for Handle<Loader> {
    fn register(&self, resource: Resource) -> BoxFuture<'static, Result<(), LoadError>> {
        let loader = self.clone();
        async move {
            let registered = loader.ask(Register { resource }, REGISTER_WITHIN).await;
            registered.map_err(unavailable)?.map_err(|error| {
                let message = error.to_string();
                LoadError::new(LoadErrorKind::Invalid, message)
            })
        }
        .boxed()
    }

    fn deregister(&self, name: String) -> BoxFuture<'static, Result<(), LoadError>> {
        let loader = self.clone();
        async move {
            let answer = loader.ask(Deregister { name }, DEREGISTER_WITHIN).await;
            match answer.map_err(unavailable)? {
                Ok(_) | Err(DeregisterError::NotFound(_)) => Ok(()),
                Err(error @ DeregisterError::Needed { .. }) => {
                    Err(LoadError::new(LoadErrorKind::Invalid, error.to_string()))
                }
            }
        }
        .boxed()
    }
}

fn unavailable(error: AskError) -> LoadError {
    let message = format!("the lazy loader: {error}");
    LoadError::new(LoadErrorKind::Unavailable, message)
}
