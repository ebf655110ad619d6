//! The commands, on plugins that are as they should be, and on some that are not.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use wasaga_testkit::{
    component_file,
    process::{Host, program},
};

use super::wasaga;

#[test]
fn a_new_plugin_says_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    for lang in ["rust", "javascript", "python", "go", "c"] {
        let name = format!("my-{lang}");
        let said = wasaga(dir.path(), &["new", &name, "--lang", lang]);
        assert!(said.is_good, "{}", said.text);
        said.must_hold(&["README.md", &format!("wasaga plugin push {name}.wasm")]);
        assert!(dir.path().join(&name).join("wit/deps/keyvalue/store.wit").is_file());
        let again = wasaga(dir.path(), &["new", &name, "--lang", lang]);
        assert!(!again.is_good);
        again.must_hold(&["exists already"]);
    }
    let cargo = fs::read_to_string(dir.path().join("my-rust/Cargo.toml")).unwrap();
    assert!(cargo.contains("name = \"my-rust\"") && cargo.contains("[workspace]"), "{cargo}");
    assert!(wasaga(dir.path(), &["new", "short", "--lang", "js"]).is_good);
    for (name, lang, words) in
        [("Stock", "rust", "lowercase"), ("../up", "rust", "lowercase"), ("x", "cobol", "python")]
    {
        let refused = wasaga(dir.path(), &["new", name, "--lang", lang]);
        assert!(!refused.is_good);
        refused.must_hold(&[words]);
        assert!(!dir.path().join(name).exists());
    }
    // No user can make a folder there, root included.
    let refused = wasaga(Path::new("/proc"), &["new", "stock", "--lang", "rust"]);
    assert!(!refused.is_good);
    refused.must_hold(&["the folder stock cannot be made here", "os error"]);
}

#[test]
fn a_check_tells_all_about_a_plugin() {
    let file = component_file("plugins", "rust");
    let said = wasaga(file.parent().unwrap(), &["check", "rust.wasm"]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&[
        "wasaga:saga/branch@0.1.0: try, cancel",
        "wasi:keyvalue/store@0.2.0-draft2",
        "contained: it imports nothing that leaves the host",
        "sha256",
        "KiB",
        " of processor time (limit 120 s); a host compiles it once",
        "It is a plugin. `wasaga plugin push rust.wasm`",
        "`wasaga plugin test rust.wasm --payload JSON`",
    ]);
}

#[test]
fn a_check_knows_the_grants() {
    let (dir, file) = (tempfile::tempdir().unwrap(), component_file("fixtures", "chaos"));
    let file = file.to_str().unwrap();
    wasaga(dir.path(), &["check", file]).must_hold(&[
        "contained: it imports wasi:http/outgoing-handler but is granted no address",
        "[plugins.grants.chaos]",
        "http: the addresses",
        "config, secrets",
    ]);
    let settings = "[plugins.grants.chaos]\nhttp = [{ url = \"https://a.example/v1/\", methods = [\"POST\"] }]\n";
    fs::write(dir.path().join("wasaga.toml"), settings).unwrap();
    let said = wasaga(dir.path(), &["check", file, "--config", "wasaga.toml"]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&["external: it imports wasi:http/outgoing-handler and is granted https://a.example/v1/ (POST)"]);
    // As cargo calls the file of my-chaos.
    fs::copy(component_file("fixtures", "chaos"), dir.path().join("my_chaos.wasm")).unwrap();
    let settings = settings.replace("chaos", "my-chaos");
    fs::write(dir.path().join("wasaga.toml"), &settings).unwrap();
    wasaga(dir.path(), &["check", "my_chaos.wasm", "--config", "wasaga.toml"])
        .must_hold(&["contained: it imports", "[plugins.grants.my_chaos]"]);
    wasaga(dir.path(), &["check", "my_chaos.wasm", "--name", "my-chaos", "--config", "wasaga.toml"]).must_hold(&[
        "external: it imports",
        "name      my-chaos",
        "plugin push my_chaos.wasm --name my-chaos",
        "plugin test my_chaos.wasm --name my-chaos --payload JSON --answer STATUS:BODY",
    ]);
    // A name with a dot is quoted, and what the tool says works.
    fs::copy(component_file("fixtures", "chaos"), dir.path().join("chaos.v2.wasm")).unwrap();
    let header = "[plugins.grants.\"chaos.v2\"]";
    wasaga(dir.path(), &["check", "chaos.v2.wasm"]).must_hold(&[
        &format!("its grants are those of {header}"),
        &format!("is granted no address: {header} http"),
        &format!("{header} in the host's settings can have"),
    ]);
    fs::write(dir.path().join("wasaga.toml"), settings.replace("[plugins.grants.my-chaos]", header)).unwrap();
    wasaga(dir.path(), &["check", "chaos.v2.wasm", "--config", "wasaga.toml"]).must_hold(&["external: it imports"]);
    for command in ["check", "test", "push"] {
        let refused = wasaga(dir.path(), &[command, "my_chaos.wasm", "--name", "My Chaos"]);
        assert!(!refused.is_good);
        refused.must_hold(&["--name \"My Chaos\": a plugin's name must consist of"]);
        assert!(!refused.text.contains("rename the file"), "{}", refused.text);
    }
    fs::write(dir.path().join("wasaga.toml"), "[plugins]\nlimit = 3\n").unwrap();
    let refused = wasaga(dir.path(), &["check", file, "--config", "wasaga.toml"]);
    assert!(!refused.is_good);
    refused.must_hold(&["wasaga.toml", "limit"]);
}

#[tokio::test]
async fn a_plugin_is_pushed_to_a_running_host_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::start_on(&dir.path().join("data"), &dir.path().join("plugins"), &[]);
    let url = format!("http://{}", host.address);
    let file = component_file("plugins", "rust");
    let push = |args: &[&str]| wasaga(dir.path(), &[&["push"], args, &["--host", &url]].concat());
    let said = push(&[file.to_str().unwrap()]);
    assert!(said.is_good, "{}", said.text);
    said.must_hold(&["rust is new: sha256:", "contained", "wasm://rust/try"]);
    let body = json!({
        "gid": "g", "trans_type": "saga", "wait_result": true,
        "steps": [{ "action": "wasm://rust/try", "compensate": "wasm://rust/cancel" }],
        "payloads": [{ "amount": 1 }],
    });
    assert_eq!(host.submit(body.to_string()).await.unwrap().0, 200);

    push(&[component_file("plugins", "service-a").to_str().unwrap(), "--name", "rust"])
        .must_hold(&["rust is replaced"]);
    fs::write(dir.path().join("bad.wasm"), "(module)").unwrap();
    let refused = push(&["bad.wasm"]);
    assert!(!refused.is_good);
    refused.must_hold(&["the host refuses bad.wasm", "not WebAssembly", "wasm32-wasip2"]);
    fs::write(dir.path().join("Bad Name.wasm"), "").unwrap();
    push(&["Bad Name.wasm"]).must_hold(&["lowercase", "rename the file", "--name"]);
    push(&["bad.wasm", "--name", ""]).must_hold(&["--name \"\": a plugin's name must consist of"]);

    let list = wasaga(dir.path(), &["list", "--host", &url]);
    assert!(list.is_good, "{}", list.text);
    list.must_hold(&["rust ", "contained", "sha256"]);
    let refused = wasaga(dir.path(), &["list", "--host", &host.address]);
    assert!(!refused.is_good);
    refused.must_hold(&["http:// is missing", &format!("take {url}")]);

    assert!(host.terminate().success());
    let nobody = wasaga(dir.path(), &["list", "--host", &url]);
    assert!(!nobody.is_good);
    nobody.must_hold(&["no host answers", "make run", "--host"]);
}

#[tokio::test]
async fn a_list_keeps_its_columns_and_tells_what_is_no_plugin() {
    let (dir, name) = (tempfile::tempdir().unwrap(), "a-name-of-more-than-twenty-four-letters");
    let plugins = dir.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::copy(component_file("plugins", "rust"), plugins.join(name).with_extension("wasm")).unwrap();
    fs::copy(component_file("plugins", "rust"), plugins.join("b.wasm")).unwrap();
    fs::write(plugins.join("broken.wasm"), "").unwrap();
    let host = Host::start_on(&dir.path().join("data"), &plugins, &[]);
    let list = wasaga(dir.path(), &["list", "--host", &format!("http://{}", host.address)]);
    assert!(list.is_good, "{}", list.text);
    list.must_hold(&["broken.wasm is not a plugin: the file is empty"]);
    let column = |row: usize, word: &str| list.text.lines().nth(row).unwrap().find(word);
    assert!(column(1, name).is_some() && column(2, "b ").is_some(), "{}", list.text);
    let reach = column(0, "reach");
    assert!(reach.is_some() && reach == column(1, "contained") && reach == column(2, "contained"), "{}", list.text);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(program());
    command.args(["plugin", "test", "--payload", r#"{"amount":1}"#]).arg(component_file("plugins", "rust"));
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
