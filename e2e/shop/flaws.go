package shop

import (
	"fmt"
	"os"
	"path/filepath"
)

// A Flaw is one way in which a release is bad.
type Flaw struct {
	Name string
	file string
	text string // what is in the file instead; empty: the file is missing
}

// SyntaxError: the file that every request needs does not parse.
func SyntaxError() Flaw {
	return Flaw{"syntax error", "src/Kernel.php", "<?php\nnamespace Shop;\nfinal class Kernel { public static function answer(): void { echo 'half a merge }\n<<<<<<< HEAD\n"}
}

// NoVendor: somebody forgot `composer install`.
func NoVendor() Flaw { return Flaw{"missing vendor/autoload.php", "vendor/autoload.php", ""} }

// UpFails: the health route says no, and why.
func UpFails() Flaw {
	return Flaw{"/up answers 500", "src/Health.php", health(`http_response_code(500);
        error_log('Health: table orders has no column total_cents');
        return ['page' => 'the database schema is old'];`)}
}

// UpHangs: the health route waits for something that never comes.
func UpHangs() Flaw { return Flaw{"/up hangs", "src/Health.php", health(`sleep(600);`)} }

// SickOnceLive is well until users are on it: no check can find it before.
func SickOnceLive() Flaw {
	return Flaw{"well until it is live", "src/Health.php", health(`clearstatcache(true);
        if (basename((string) readlink(dirname(__DIR__, 3) . '/current')) === basename(dirname(__DIR__))) {
            http_response_code(500);
            return ['page' => 'the cache server refuses this version'];
        }
        return ['page' => 'up'];`)}
}

func health(body string) string {
	return fmt.Sprintf(`<?php
namespace Shop;
$GLOBALS['files']['src/Health.php'] = basename(dirname(__DIR__));
final class Health
{
    public static function up(): array
    {
        %s
    }
}
`, body)
}

// WorkersEnd: the workers end at once, and find nothing wrong with that.
func WorkersEnd() Flaw {
	return Flaw{"workers end at once", "bin/worker.php", "<?php\necho \"Nothing to do: queue driver 'sync'\\n\";\nexit(0);\n"}
}

// WorkersNeverReady: the workers live and never get to work.
func WorkersNeverReady() Flaw {
	return Flaw{"workers never ready", "bin/worker.php", "<?php\necho \"waiting for the license server\\n\";\nwhile (true) { sleep(1); }\n"}
}

// WorkersNotBack: the workers work until there is a file "watched" beside the ledger. One
// that has ended does not get to work again.
func WorkersNotBack() Flaw {
	return Flaw{"a worker ends and is not back", "bin/worker.php", `<?php
if (getenv('SUPERD_SLOT') !== '0') {
    echo "ready for jobs\n";
    while (true) { sleep(1); }
}
$mark = dirname($argv[1]) . '/not-back-' . getenv('SUPERD_GENERATION');
if (file_exists($mark)) {
    echo "waiting for a lock that nobody lets go\n";
    while (true) { sleep(1); }
}
touch($mark);
echo "ready for jobs\n";
while (!file_exists(dirname($argv[1]) . '/watched')) { usleep(10_000); }
echo "the lock server went away\n";
exit(1);
`}
}

// WorkersDeaf: the workers do not hear SIGTERM, and hold on to a job for long.
func WorkersDeaf() Flaw {
	return Flaw{"workers deaf to SIGTERM", "bin/worker.php", "<?php\npcntl_signal(SIGTERM, SIG_IGN);\necho \"ready for jobs\\n\";\nwhile (true) { sleep(1); }\n"}
}

// RefusedConf: php-fpm refuses what the release wants of it.
func RefusedConf() Flaw {
	return Flaw{"php-fpm refuses its configuration", "fpm.conf", "pm.max_childern = 12\n"}
}

// RefusedStart: php-fpm finds the configuration good and does not start: the pool
// that the release brings along listens where somebody else does. taken is that
// address.
func RefusedStart(taken string) Flaw {
	return Flaw{"php-fpm does not start", "fpm.conf", fmt.Sprintf(`[reports]
user = www-data
group = www-data
listen = %s
pm = ondemand
pm.max_children = 1
`, taken)}
}

func (f Flaw) spoil(dir string) error {
	path := filepath.Join(dir, filepath.FromSlash(f.file))
	if f.text == "" {
		return os.Remove(path)
	}
	return os.WriteFile(path, []byte(f.text), 0o644)
}
