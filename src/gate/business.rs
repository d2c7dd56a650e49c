//! Which business a request is about: what its path, query and headers name must agree.

use http::HeaderMap;

use super::{Denial, query};
use crate::keys::tenant::is_id;
use crate::policy::{BusinessSource, percent};

/// The business that the request names, if it names one; 400 where two sources disagree or name no id.
pub fn named(
    sources: &[BusinessSource],
    parameters: &[(&str, &str)],
    query: &str,
    headers: &HeaderMap,
) -> Result<Option<String>, Denial> {
    let mut agreed: Option<String> = None;
    for source in sources {
        match source {
            BusinessSource::Path(name) => {
                for (_, value) in parameters.iter().filter(|(parameter, _)| parameter == name) {
                    agree(&mut agreed, String::from_utf8(percent::decode(value, false)).ok())?;
                }
            }
            BusinessSource::Query(name) => {
                query::values(query, name).try_for_each(|value| match value {
                    Ok(value) => agree(&mut agreed, Some(value)),
                    Err(unreadable) => Err(unreadable.denial(name)),
                })?;
            }
            BusinessSource::Header(name) => {
                let values = headers.get_all(name).iter();
                let mut texts = values.map(|value| value.to_str().ok().map(str::to_owned));
                texts.try_for_each(|value| agree(&mut agreed, value))?;
            }
        }
    }
    Ok(agreed)
}

fn agree(agreed: &mut Option<String>, named: Option<String>) -> Result<(), Denial> {
    let named =
        named.filter(|named| is_id(named)).ok_or(Denial::BadParameter("The business named is no valid id".into()))?;
    match agreed {
        Some(earlier) if *earlier != named => Err(Denial::BadParameter("The request names two businesses".into())),
        _ => {
            *agreed = Some(named);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn named_by(path: &[(&str, &str)], query: &str, header: &[&'static str]) -> Result<Option<String>, &'static str> {
        let sources = [
            BusinessSource::Path("business_id".to_owned()),
            BusinessSource::Query("business_id".to_owned()),
            BusinessSource::Header(HeaderName::from_static("x-business-id")),
        ];
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append("x-business-id", http::HeaderValue::from_static(value));
        }
        named(&sources, path, query, &headers).map_err(|denial| denial.reason().name())
    }

    #[test]
    fn all_that_name_a_business_must_agree() {
        let b1 = Ok(Some("b1".to_owned()));
        assert_eq!(named_by(&[], "", &[]), Ok(None));
        assert_eq!(named_by(&[("business_id", "b1")], "business_id=%621", &["b1"]), b1);
        assert_eq!(named_by(&[("id", "b2")], "x=b2&business_id=b1", &[]), b1);
        assert_eq!(named_by(&[("business_id", "b1")], "business_id=b2", &[]), Err("bad_request"));
        assert_eq!(named_by(&[], "business_id=b1&business_id=b2", &[]), Err("bad_request"));
        assert_eq!(named_by(&[], "", &["b1", "b2"]), Err("bad_request"));
        assert_eq!(named_by(&[], "business_id=", &[]), Err("bad_request"));
        assert_eq!(named_by(&[], "", &["b1, b2"]), Err("bad_request"));
    }
}
