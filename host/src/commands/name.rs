//! The name of the plugin in a file.

use std::path::Path;

use crate::plugin;

/// The name given with `--name`, or that of the file.
pub fn name_of<'a>(file: &'a Path, name: Option<&'a str>) -> Result<&'a str, String> {
    match name {
        Some(name) if !plugin::is_name(name) => Err(format!("--name {name:?}: {}", plugin::name_rule())),
        Some(name) => plugin::check_name(name).map(|()| name).map_err(|fault| format!("--name {name:?}: {fault}")),
        None => {
            plugin::name(file).map_err(|fault| format!("{}: {fault}, or give another name: --name", file.display()))
        }
    }
}
