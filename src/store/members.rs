//! The members of a key's document, as JSON: for code that writes documents and must keep members that it does not know. `record`
//! parses them.

use serde_json::{Map, Value};

/// The member of a rotated key that names the id of its successor.
pub const SUCCESSOR: &str = "rotated_to";

/// The member of a successor that says until when its predecessor works beside it.
pub const PREDECESSOR_UNTIL: &str = "predecessor_until";

/// The members of a key's document, in the order in which they are written.
pub const MEMBERS: [&str; 12] = [
    "id",
    "name",
    "hint",
    "business",
    "user",
    "scopes",
    "created_at",
    "expires_at",
    "revoked_at",
    "limits",
    "allow_addresses",
    SUCCESSOR,
];

/// The members of a document.
pub type Members = Map<String, Value>;
