//! Any bytes as what stores hold: documents, files, buckets. Refused, or read back as written, and a revoked key stays so.

use sidegate::limit::bucket::Bucket;
use sidegate::store::file::Contents;
use sidegate::store::record::{BusinessDocument, KeyDocument};

pub fn run(data: &[u8]) {
    if let Ok(key) = KeyDocument::parse(data) {
        let again = KeyDocument::parse(key.to_json().as_bytes()).expect("what is written can be read");
        assert_eq!(again, key);
        assert_eq!(KeyDocument::parse_in(&key.tenant(), data), Ok(key.clone()));
        // Members that nobody reads may hold what is no text.
        if let Ok(read) = serde_json::from_slice::<serde_json::Value>(data) {
            assert_eq!(key.revoked, read.get("revoked_at").is_some());
        }
    }
    let _ = BusinessDocument::parse(data);
    if let Some(bucket) = Bucket::decode(data) {
        // A negative zero is a zero, and is written as one.
        assert_eq!(Bucket::decode(&bucket.encode()), Some(bucket.clone()));
        assert!(bucket.ends_ms() <= 1 << 53, "{bucket:?}");
    }
    // What cannot be written (a map for a name) is said, and the file is left as it is.
    if let Ok(contents) = Contents::parse(data)
        && let Ok(yaml) = contents.to_yaml()
    {
        let again = Contents::parse(yaml.as_bytes()).expect("what is written can be read");
        assert_eq!(contents.entries().count(), again.entries().count());
    }
}
