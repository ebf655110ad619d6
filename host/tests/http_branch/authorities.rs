//! Which authorities are trusted: those of `ca_file`, beside the system's.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa};

use super::*;

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn ask(url: &str, ca_file: &Path) -> Outcome {
    let client = Client::new(&Settings { ca_file: ca_file.to_owned(), ..Settings::default() }).unwrap();
    client.branch(url).unwrap().call(&call("1"), &branch_host()).await
}

#[tokio::test]
async fn a_service_is_trusted_whose_authority_is_in_ca_file() {
    let (ours, other, key) = (authority("ours"), authority("other"), KeyPair::generate().unwrap());
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &ours).unwrap();
    let url = tls_service(leaf.der().clone(), &key).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let both = file("both.pem", format!("of the company\n{}\n{}", other.pem(), ours.pem()));
    let outcome = ask(&url, &both).await;
    assert!(outcome.has_succeeded(), "{outcome:?}");
    let error = error_of(ask(&url, &file("other.pem", other.pem())).await);
    assert!(error.contains("no authority that is trusted") && error.contains("ca_file under [http]"), "{error}");
    // It is trusted under its own name only.
    let error = error_of(ask(&url.replace("localhost", "127.0.0.1"), &both).await);
    assert!(error.starts_with("the server's certificate is not valid: ") && error.contains("localhost"), "{error}");
}

/// What `openssl req -x509` makes is the certificate of an authority.
#[tokio::test]
async fn an_authority_that_is_a_server_too_is_refused_with_the_mend() {
    let ours = authority("ours");
    let url = tls_service(ours.der().clone(), ours.key()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ours.pem");
    std::fs::write(&file, ours.pem()).unwrap();
    let error = error_of(ask(&url, &file).await);
    assert!(error.contains("is that of an authority") && error.contains("has signed"), "{error}");
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let block = |inside: &str| format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n");
    for (name, text, words) in [
        ("absent.pem", None, "cannot be read"),
        ("empty.pem", Some(String::new()), "no certificate in PEM"),
        ("key.pem", Some(KeyPair::generate().unwrap().serialize_pem()), "no certificate in PEM"),
        ("cut.pem", Some(block("MIIB").replace("-----END", "")), "cannot be read"),
        ("other.pem", Some(block("AAAA")), "no certificate of an authority"),
    ] {
        let file = folder.path().join(name);
        if let Some(text) = text {
            std::fs::write(&file, text).unwrap();
        }
        let Err(error) = Client::new(&Settings { ca_file: file.clone(), ..Settings::default() }) else {
            panic!("{name} is taken")
        };
        let error = wasaga::causes::in_one_line(&error);
        assert!(error.contains(words) && error.contains(file.to_str().unwrap()), "{name}: {error}");
        assert!(error.contains("ca_file under [http]"), "{error}");
    }
}
