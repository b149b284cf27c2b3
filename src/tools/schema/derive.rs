//! Schemas of our own types.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

/// What serde reads as `T`: self-contained, without references.
pub(super) fn parameters<T: JsonSchema>() -> Value {
    generated::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

/// What serde writes for `T`.
pub fn result<T: JsonSchema>() -> Value {
    generated::<T>(SchemaSettings::draft2020_12().for_serialize())
}

/// What serde reads as `T` where a null, too, says that an optional field is not given: serde's own view.
pub fn request<T: JsonSchema>() -> Value {
    rendered::<T>(SchemaSettings::draft2020_12().for_deserialize(), true)
}

/// For a document that keeps the types that replies are written from below `definitions`, each once.
pub fn replies(definitions: &'static str) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|s| {
        s.definitions_path = definitions.into();
        s.meta_schema = None;
    });
    settings.with_transform(Plain { nullable: true }).into_generator()
}

fn generated<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let nullable = settings.contract.is_serialize();
    rendered::<T>(settings, nullable)
}

fn rendered<T: JsonSchema>(settings: SchemaSettings, nullable: bool) -> Value {
    let settings = settings.with(|s| s.inline_subschemas = true).with_transform(Plain { nullable });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Value::Object(top) = &mut schema {
        // The Rust type's name and words say nothing to callers; the tool has a description.
        top.remove("title");
        top.remove("description");
    }
    schema
}

/// Takes out what only Rust means: the width of numbers, and, of what is read, the null of an `Option`, which is "not given"
/// and never has to be said.
#[derive(Debug, Clone)]
struct Plain {
    nullable: bool,
}

impl Transform for Plain {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(object) = schema.as_object_mut() {
            let width =
                |f: &Value| f.as_str().is_some_and(|f| f.starts_with("int") || f.starts_with("uint") || f == "double");
            if object.get("format").is_some_and(width) {
                object.remove("format");
            }
            if !self.nullable
                && let Some(Value::Array(types)) = object.get_mut("type")
            {
                types.retain(|t| t != "null");
                if let [one] = &mut types[..] {
                    let one = one.take();
                    object.insert("type".into(), one);
                }
            }
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
        }
        transform_subschemas(self, schema);
    }
}
