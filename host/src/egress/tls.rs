//! Which servers are trusted: those with a certificate of an authority that the system or the operator trusts.

use std::{
    env,
    error::Error as StdError,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, OtherError, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject as _},
    },
};
use rustls_platform_verifier::Verifier;

use crate::causes;

/// How servers are verified. Clones share it.
#[derive(Clone, Debug)]
pub struct Tls(ClientConfig);

/// Why the certificates of `ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ca_file under [http] cannot be read: {}", file.display())]
    Read { file: PathBuf, source: pem::Error },
    #[error("ca_file under [http] holds no certificate in PEM, which begins with -----BEGIN CERTIFICATE-----: {}", file.display())]
    Empty { file: PathBuf },
    #[error("ca_file under [http] holds what is no certificate of an authority: {}", file.display())]
    Unusable { file: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

impl Tls {
    /// Trusts the authorities of the system, or instead of them those in `SSL_CERT_FILE` and `SSL_CERT_DIR`, and in any case
    /// those in `ca_file`, unless that is empty.
    ///
    /// A machine without any can still reach `http://` addresses, so that is a warning.
    pub fn new(ca_file: &Path) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let own = if ca_file.as_os_str().is_empty() { Vec::new() } else { read(ca_file)? };
        check(&own).map_err(|source| Error::Unusable { file: ca_file.to_owned(), source })?;
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::Setup)?;
        let config = match Verifier::new_with_extra_roots(own, provider) {
            Ok(verifier) => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    SSL_CERT_FILE = env::var("SSL_CERT_FILE").ok(),
                    SSL_CERT_DIR = env::var("SSL_CERT_DIR").ok(),
                    "no trusted certificate authorities, https branches and https requests of plugins will fail: install the \
                     system's (Debian: ca-certificates), set SSL_CERT_FILE, or set ca_file under [http], then restart"
                );
                builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
            }
        };
        Ok(Self(config))
    }

    /// The settings for connections.
    pub fn config(&self) -> ClientConfig {
        self.0.clone()
    }
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let failed = |source| Error::Read { file: file.to_owned(), source };
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() { Err(Error::Empty { file: file.to_owned() }) } else { Ok(certificates) }
}

fn check(certificates: &[CertificateDer<'static>]) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    certificates.iter().try_for_each(|certificate| roots.add(certificate.clone()))
}

/// Why a server was not trusted, and the mend, if an error of a connection is about that.
pub fn distrust(error: &(dyn StdError + 'static)) -> Option<String> {
    let rustls::Error::InvalidCertificate(fault) = causes::chain(error).find_map(tls_error)? else { return None };
    Some(match fault {
        CertificateError::UnknownIssuer => "the server's certificate is of no authority that is trusted: name the authority's \
             certificate in ca_file under [http], or in SSL_CERT_FILE"
            .to_owned(),
        CertificateError::Other(OtherError(cause)) if cause.to_string() == "CaUsedAsEndEntity" => {
            "the server's certificate is that of an authority, which cannot be a server's: give the server one that the \
             authority has signed, and name the authority's in ca_file under [http]"
                .to_owned()
        }
        fault => format!("the server's certificate is not valid: {fault}"),
    })
}

/// The error of TLS that an error is, or that an `io::Error` holds, which skips it as its source.
pub fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<io::Error>() {
        Some(of_io) => of_io.get_ref().and_then(|inner| tls_error(inner)),
        None => error.downcast_ref(),
    }
}
