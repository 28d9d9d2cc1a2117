//! Pins and unpins resources on an operator's request.

use actix::Context;

use super::error::UnknownResource;
use super::loader::Loader;
use super::status::ResourceStatus;

impl Loader {
    /// Pins or unpins the resource `name`, and returns its new status. An unpinned resource whose TTL
    /// is over is unloaded next.
    pub(super) fn set_pinned(
        &mut self,
        name: &str,
        pinned: bool,
        context: &mut Context<Self>,
    ) -> Result<ResourceStatus, UnknownResource> {
        let unknown = || UnknownResource(name.to_owned());
        self.registered(name).ok_or_else(unknown)?;
        if let Some(slot) = self.slots.get_mut(name) {
            slot.set_pinned(pinned);
        }
        self.set_successor_pinned(name, pinned);
        // The catalogue is what the next incarnation begins with.
        if let Some(catalogue) = &mut self.catalogue {
            catalogue.set_pinned(name, pinned);
        }
        tracing::info!(resource = name, pinned, "an operator has set the pin");
        self.set_expiry_timer(context);
        // Loads that wait for memory can evict it now.
        self.retry_if_evictable(context);
        let mut all = self.status().into_iter();
        all.find(|status| status.name == name).ok_or_else(unknown)
    }
}
