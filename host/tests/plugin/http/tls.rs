//! Over TLS a plugin reaches the servers whose certificates are trusted, and no others.

use std::{path::Path, process::Command};

use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, rustls};

use super::*;

/// A server whose certificate for `localhost` is trusted through its PEM only. Returns its port and that PEM.
pub async fn self_signed() -> (u16, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let (tcp, tls) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)));
    let port = tcp.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let tls = tls.clone();
            // A client closes the connection to an untrusted server.
            tokio::spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    server::serve(stream).await;
                }
            });
        }
    });
    (port, made.cert.pem())
}

async fn ask(port: u16, host: &str) -> Value {
    ask_with(port, host, Path::new("")).await
}

/// With the authorities of this file.
async fn ask_with(port: u16, host: &str, ca_file: &Path) -> Value {
    let http = vec![allowed(&format!("https://{host}:{port}/"), &["GET"], true)];
    let grants = Arc::new(Grants::new("chaos", &grants::Settings { http, ..Default::default() }).unwrap());
    let grants = BTreeMap::from([("chaos".to_owned(), grants)]);
    let plugins = chaos(&Settings { grants, ca_file: ca_file.to_owned(), ..Settings::default() });
    let request = json!({"scheme": "https", "authority": format!("{host}:{port}"), "path": "/hello"});
    fetch(&plugins, &[request]).await.remove(0)
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (port, _) = self_signed().await;
    assert_eq!(ask(port, "localhost").await["error"], "ErrorCode::TlsCertificateError");
}

#[tokio::test]
async fn a_certificate_in_ca_file_is_trusted_for_its_own_name() {
    let (port, pem) = self_signed().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authorities.pem");
    std::fs::write(&file, pem).unwrap();
    assert_eq!(ask_with(port, "localhost", &file).await["body"], "hello");
    assert_eq!(ask_with(port, "127.0.0.1", &file).await["error"], "ErrorCode::TlsCertificateError");
}

#[test]
fn a_certificate_among_the_roots_is_trusted_for_its_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let roots: &Path = &folder.path().join("roots.pem");
    // The roots are those of a process.
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "http::tls::https_with_the_servers_certificate_as_root", "--ignored"])
        .env("SSL_CERT_FILE", roots)
        .env("SSL_CERT_DIR", roots.with_file_name("none"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "needs its own environment: run by a_certificate_among_the_roots_is_trusted_for_its_own_name"]
async fn https_with_the_servers_certificate_as_root() {
    let (port, pem) = self_signed().await;
    std::fs::write(std::env::var_os("SSL_CERT_FILE").unwrap(), pem).unwrap();
    let answer = ask(port, "localhost").await;
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!("hello")), "{answer}");
    assert_eq!(ask(port, "127.0.0.1").await["error"], "ErrorCode::TlsCertificateError");
}
