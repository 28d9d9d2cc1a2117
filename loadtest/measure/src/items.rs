//! A table of items whose values follow from their keys, so that every answer can be checked.

use super::meter::Failure;
use super::random::Random;

/// Bytes of each value.
const VALUE_BYTES: usize = 100;

/// A table `(id bigint, payload text)` with the keys from 1 to `rows`, in any database that speaks
/// PostgreSQL's SQL; or the same keys and values elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Items {
    table: String,
    rows: u32,
}

impl Items {
    /// The items of `table`, which must be a plain identifier, as it stands in statements unquoted.
    pub fn new(table: impl Into<String>, rows: u32) -> Self {
        let table = table.into();
        Self { table, rows }
    }

    /// The statement that creates the table. Nothing of it is written ahead: it does not outlast a crash of
    /// the database, and costs little.
    pub fn create(&self) -> String {
        let table = &self.table;
        format!("CREATE UNLOGGED TABLE {table} (id bigint PRIMARY KEY, payload text NOT NULL)")
    }

    /// The statement that fills the table.
    pub fn fill(&self) -> String {
        let Self { table, rows } = self;
        format!(
            "INSERT INTO {table} SELECT id, lpad(id::text, {VALUE_BYTES}, '0') \
             FROM generate_series(1, {rows}) AS id"
        )
    }

    /// The statement that lets the planner know the table as it is.
    pub fn analyze(&self) -> String {
        format!("ANALYZE {}", self.table)
    }

    /// The statement that selects one value by its primary key, `$1`.
    pub fn select(&self) -> String {
        format!("SELECT payload FROM {} WHERE id = $1", self.table)
    }

    /// The statement that removes the table.
    pub fn remove(&self) -> String {
        format!("DROP TABLE IF EXISTS {}", self.table)
    }

    /// A key for the operation of this number: in no order, and the same at every run.
    pub fn key(&self, operation: u64) -> i64 {
        let random = Random::new(operation).next() % u64::from(self.rows.max(1));
        1 + random.cast_signed()
    }

    /// Checks the value that was found for `key`.
    ///
    /// # Errors
    /// It does not belong to the key.
    pub fn check(key: i64, found: &str) -> Result<(), Failure> {
        if found == value(key) {
            return Ok(());
        }
        let message = format!("the value does not belong to the key {key}");
        Err(Failure::new("wrong_value", message))
    }

    /// The length of each value, in bytes.
    pub fn value_bytes() -> usize {
        VALUE_BYTES
    }
}

fn value(key: i64) -> String {
    format!("{key:0>VALUE_BYTES$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_table() {
        let items = Items::new("item", 7);
        let mut keys: Vec<_> = (0..1000).map(|operation| items.key(operation)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_value_belongs_to_one_key() {
        assert_eq!(Items::check(12, &value(12)), Ok(()));
        assert_eq!(value(12).len(), Items::value_bytes());
        let wrong = Items::check(12, &value(13)).unwrap_err();
        assert_eq!(wrong.kind, "wrong_value");
    }
}
