//! The loader's catalogue, as other rooms may add to it while everything runs.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};

use super::error::DeregisterError;
use super::loader::Loader;
use super::messages::{Deregister, Register};
use crate::kernel::{AskError, Handle, LoadError, LoadErrorKind, Registrar, Resource};

/// The loader answers at once; longer means that it is being restarted or stopped.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);

/// What is in use is waited for.
const UNREGISTER_WITHIN: Duration = Duration::from_secs(60);

impl Registrar for Handle<Loader> {
    fn register(&self, resource: Resource) -> BoxFuture<'static, Result<(), LoadError>> {
        let loader = self.clone();
        async move {
            let register = Register { resource };
            let registered = loader
                .ask(register, REGISTER_WITHIN)
                .await
                .map_err(unreachable)?;
            registered.map_err(|error| LoadError::new(LoadErrorKind::Invalid, error.to_string()))
        }
        .boxed()
    }

    fn deregister(&self, name: String) -> BoxFuture<'static, Result<(), LoadError>> {
        let loader = self.clone();
        async move {
            match loader
                .ask(Deregister { name }, UNREGISTER_WITHIN)
                .await
                .map_err(unreachable)?
            {
                // That it is gone already is what was wanted.
                Ok(_) | Err(DeregisterError::NotFound(_)) => Ok(()),
                Err(error @ DeregisterError::Needed { .. }) => {
                    Err(LoadError::new(LoadErrorKind::Invalid, error.to_string()))
                }
            }
        }
        .boxed()
    }
}

fn unreachable(error: AskError) -> LoadError {
    LoadError::new(
        LoadErrorKind::Unavailable,
        format!("the lazy loader: {error}"),
    )
}
