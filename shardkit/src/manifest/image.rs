//! What a component runs: a program, or an OCI image in its stead.
//!
//! Invariant: a resolved path begins with `oci:` if and only if it is an image.

use super::at::At;
use super::error::Problem;
use super::raw;
use crate::application::IMAGE_PREFIX;
use std::path::PathBuf;

/// The one of `program` and `image` that is there.
pub(super) fn program_or_image<'a>(
    name: &At<String>,
    raw: &'a raw::Component,
) -> Result<&'a At<String>, Problem> {
    match (&raw.program, &raw.image) {
        (Some(program), None) if program.value.starts_with(IMAGE_PREFIX) => {
            let what = format!("`program` names the image `{}`", program.value);
            Err(Problem::at(&program.span, what, "write `image = …` instead"))
        }
        (Some(program), None) => Ok(program),
        (None, Some(image)) => {
            check_image(image)?;
            check_alone(name, raw)?;
            Ok(image)
        }
        (Some(_), Some(image)) => {
            let what = format!("component `{}` has both `program` and `image`", name.value);
            Err(Problem::at(&image.span, what, "leave one of them out"))
        }
        (None, None) => {
            let what = format!("component `{}` has neither `program` nor `image`", name.value);
            Err(Problem::at(&name.span, what, "add `program = …`, or `image = \"oci:PATH\"`"))
        }
    }
}

fn check_image(image: &At<String>) -> Result<(), Problem> {
    match image.value.strip_prefix(IMAGE_PREFIX) {
        Some(path) if !path.is_empty() => Ok(()),
        _ => {
            let what = format!("`image` can't be `{}`", image.value);
            let cure = "write `oci:` and the path of an image layout, of an archive, or of a bundle";
            Err(Problem::at(&image.span, what, cure))
        }
    }
}

/// What a container can't be, or have: forked from one that is there, let at something of the host's, or not isolated.
fn check_alone(name: &At<String>, raw: &raw::Component) -> Result<(), Problem> {
    if raw.zygote {
        let what = format!("component `{}` is an image, and no zygote can fork a container", name.value);
        return Err(Problem::at(&name.span, what, "leave `zygote` out"));
    }
    if let Some(allow) = &raw.allow {
        let what =
            format!("component `{}` is an image, whose containers reach nothing of the host", name.value);
        let cure = "leave `allow` out, or run its program natively";
        return Err(Problem::at(&allow.span, what, cure));
    }
    if raw.isolation.value == "none" {
        let what = format!("component `{}` is an image, and a container is always isolated", name.value);
        let cure = "leave `isolation` out, or run its program natively";
        return Err(Problem::at(&raw.isolation.span, what, cure));
    }
    if !matches!(raw.gpu_memory.value, raw::Amount::Number(0)) {
        let what = format!("component `{}` is an image, whose containers have no GPU", name.value);
        let cure = "leave `gpu_memory` out, or run its program natively with `allow.devices`";
        return Err(Problem::at(&raw.gpu_memory.span, what, cure));
    }
    Ok(())
}

/// The OCI runtime that the manifest names.
pub(super) fn runtime(raw: &At<String>) -> Result<PathBuf, Problem> {
    if raw.value.is_empty() || raw.value.contains('\0') {
        let cure = "name one such as `crun`, or give the path of one";
        return Err(Problem::at(&raw.span, format!("`oci_runtime` can't be `{}`", raw.value), cure));
    }
    Ok(raw.value.clone().into())
}
