//! Types of one's own, whose conversions are written by hand.

use std::error::Error as AnyError;

use bytes::{Buf, BufMut, BytesMut};

use super::*;
use crate::postgres::postgres_types::{Field, FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};

type Failure = Box<dyn AnyError + Sync + Send>;

/// `create type mood as enum ('sad', 'happy')`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Sad,
    Happy,
}

fn is_mood(ty: &Type) -> bool {
    ty.name() == "mood" && matches!(ty.kind(), Kind::Enum(_))
}

impl ToSql for Mood {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        let label = match self {
            Self::Sad => "sad",
            Self::Happy => "happy",
        };
        label.to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        is_mood(ty)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Mood {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failure> {
        match raw {
            b"sad" => Ok(Self::Sad),
            b"happy" => Ok(Self::Happy),
            _ => Err("not a mood".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        is_mood(ty)
    }
}

/// `create type place as (x int8, y int8)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) x: i64,
    pub(super) y: i64,
}

fn fields(ty: &Type) -> Option<&[Field]> {
    match ty.kind() {
        Kind::Composite(fields) => Some(fields),
        _ => None,
    }
}

fn is_place(ty: &Type) -> bool {
    let fields = fields(ty).unwrap_or_default();
    ty.name() == "place" && fields.len() == 2 && fields.iter().all(|f| *f.type_() == Type::INT8)
}

impl ToSql for Place {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        out.put_i32(2);
        for value in [self.x, self.y] {
            out.put_u32(Type::INT8.oid());
            out.put_i32(8);
            out.put_i64(value);
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        is_place(ty)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Place {
    fn from_sql(_: &Type, mut raw: &'a [u8]) -> Result<Self, Failure> {
        // The number of fields was checked with the type.
        raw.try_get_i32()?;
        let mut field = || {
            raw.try_get_u32()?;
            match raw.try_get_i32()? {
                8 => Ok(raw.try_get_i64()?),
                _ => Err(Failure::from("a field is null")),
            }
        };
        Ok(Self {
            x: field()?,
            y: field()?,
        })
    }

    fn accepts(ty: &Type) -> bool {
        is_place(ty)
    }
}

#[test]
fn types_of_ones_own_go_to_the_server_and_back() {
    with_database(1, |database| async move {
        for sql in [
            "create type mood as enum ('sad', 'happy')",
            "create type place as (x int8, y int8)",
            "create table t (feels mood, others mood[], at place)",
        ] {
            database.query(sql, &[], LONG).await.unwrap();
        }
        let place = Place { x: -1, y: 1 << 40 };
        let others = vec![Some(Mood::Sad), None];
        let insert = "insert into t values ($1, $2, $3) returning *";
        let values: [&(dyn ToSql + Sync); 3] = [&Mood::Happy, &others, &place];
        let stored = database.query(insert, &values, LONG).await;
        let row = stored.unwrap().one().unwrap();
        assert_eq!(row.get::<_, Mood>("feels"), Mood::Happy);
        assert_eq!(row.get::<_, Vec<Option<Mood>>>("others"), others);
        assert_eq!(row.get::<_, Place>("at"), place);
        // A type that does not fit is refused, not misread.
        let wrong = database.query("select $1::int8", &[&Mood::Sad], LONG).await;
        assert!(matches!(wrong, Err(Error::Invalid(_))), "{wrong:?}");
        assert!(row.try_get::<_, Mood>("at").is_err());
    });
}
