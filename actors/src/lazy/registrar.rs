//! The kernel's [`Registrar`] trait, by which other modules change the loader's catalogue.

use std::time::Duration;

use actix::Handler;
use futures_util::future::{BoxFuture, FutureExt};

use super::catalogue::CatalogueError;
use super::loader::Loader;
use super::messages::{Deregister, Register};
use crate::kernel::{Call, Handle, LoadError, LoadErrorKind, Message, Registrar, Resource};

/// The loader replies at once unless it is restarting or stopping.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);

/// A deregistration waits for the leases on the resource.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(60);

impl Registrar for Handle<Loader> {
    fn register(&self, resource: Resource) -> BoxFuture<'static, Result<(), LoadError>> {
        change(self.clone(), Register { resource }, REGISTER_WITHIN)
    }

    fn deregister(&self, name: String) -> BoxFuture<'static, Result<(), LoadError>> {
        change(self.clone(), Deregister { name }, DEREGISTER_WITHIN)
    }
}

fn change<M>(
    loader: Handle<Loader>,
    change: M,
    within: Duration,
) -> BoxFuture<'static, Result<(), LoadError>>
where
    M: Message<Reply = Result<(), CatalogueError>>,
    Loader: Handler<Call<M>>,
{
    async move {
        match loader.ask(change, within).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LoadError::new(LoadErrorKind::Invalid, error.to_string())),
            Err(error) => {
                let message = format!("the lazy loader: {error}");
                Err(LoadError::new(LoadErrorKind::Unavailable, message))
            }
        }
    }
    .boxed()
}
