//! A password file as libpq reads it: lines of `host:port:database:user:password`.

use std::path::Path;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::failure::Failure;

/// Whether the file can be read. It is read again for each connection.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    std::fs::read_to_string(path).map(drop).map_err(|error| {
        Failure::usage(format!("--postgres: the file that passfile names cannot be read: {error}"))
    })
}

/// The password of the first line that fits one of the hosts.
pub(super) fn password(path: &Path, config: &Config) -> Option<String> {
    if config.get_password().is_some() {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let user = config.get_user()?;
    let database = config.get_dbname().unwrap_or(user);
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate();
    let mut places = hosts.map(|(at, host)| {
        let host = match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(_) => "localhost".to_owned(),
        };
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        [host, port.to_string(), database.to_owned(), user.to_owned()]
    });
    places.find_map(|place| {
        text.lines().filter(|line| !line.starts_with('#')).find_map(|line| fits(line, &place))
    })
}

/// The password of a line, if it is for this host, port, database and user.
fn fits(line: &str, place: &[String; 4]) -> Option<String> {
    let fields = fields(line);
    let (wanted, password) = (fields.get(..4)?, fields.get(4)?);
    let fits = |(field, part): (&String, &String)| field == "*" || field == part;
    wanted.iter().zip(place).all(fits).then(|| password.clone())
}

/// The fields between colons. A backslash quotes a colon or a backslash.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("there is one from the beginning");
        match character {
            '\\' => field.extend(characters.next()),
            ':' => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = "# a comment\nother:*:*:*:wrong\nlocalhost:5432:shop:me:of a \\:socket\n\
                     db:6000:*:me:second\n*:*:*:me:any\n";
        std::fs::write(file.path(), lines).unwrap();
        let of = |given: &str| password(file.path(), &given.parse().unwrap());
        assert_eq!(of("host=/run dbname=shop user=me").as_deref(), Some("of a :socket"));
        assert_eq!(of("host=db port=6000 user=me").as_deref(), Some("second"));
        assert_eq!(of("host=x,db port=1,6000 user=me").as_deref(), Some("any"));
        assert_eq!(of("host=db user=you"), None);
        assert_eq!(of("host=db user=me password=given"), None);
    }
}
