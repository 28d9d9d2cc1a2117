//! What each provider says.

use std::sync::Arc;

use tokio::time::Instant;

use super::Block;

/// The most providers.
const CLAIMS_MAX: usize = 64;

/// What one provider says.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) provider: Arc<str>,
    pub(super) head: Block,
    pub(super) seen_at: Instant,
    /// When it first told a number as high as this one.
    pub(super) advanced_at: Instant,
    /// How often in a row it has told a head below the agreed one.
    pub(super) lower: u32,
    /// It does not lead alone before this block, because the others have not followed it.
    pub(super) leads_from: u64,
    pub(super) finalized: Option<u64>,
    /// Whether calls may be sent to the provider. Otherwise its word does not count.
    pub(super) is_used: bool,
}

/// What all providers say.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<Claim>);

impl Claims {
    pub(super) fn get(&self, provider: &str) -> Option<&Claim> {
        self.0.iter().find(|claim| *claim.provider == *provider)
    }

    pub(super) fn get_mut(&mut self, provider: &str) -> Option<&mut Claim> {
        self.0.iter_mut().find(|claim| *claim.provider == *provider)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Claim> + Clone {
        self.0.iter()
    }

    /// Records that `provider` tells `head`. Returns false if there are too many providers.
    pub(super) fn tell(
        &mut self,
        provider: &str,
        head: Block,
        seen_at: Instant,
        agreed: Option<u64>,
    ) -> bool {
        let is_lower = agreed.is_some_and(|agreed| head.number < agreed);
        if let Some(claim) = self.get_mut(provider) {
            if head.number > claim.head.number {
                claim.advanced_at = seen_at;
            }
            claim.head = head;
            claim.seen_at = seen_at;
            claim.lower = match is_lower {
                true => claim.lower.saturating_add(1),
                false => 0,
            };
            return true;
        }
        if self.0.len() == CLAIMS_MAX {
            return false;
        }
        self.0.push(Claim {
            provider: provider.into(),
            head,
            seen_at,
            advanced_at: seen_at,
            lower: is_lower.into(),
            leads_from: 0,
            finalized: None,
            is_used: true,
        });
        true
    }

    /// How many providers have told a head.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
