<?php

declare(strict_types=1);

namespace Shop;

$GLOBALS['files']['src/Kernel.php'] = '@RELEASE@';

/** Finds the page that was asked for. Each page tells which files ran for it. */
final class Kernel
{
    public static function answer(): void
    {
        $path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
        $page = match ($path) {
            '/' => static fn () => Pages::front(),
            '/up' => static fn () => Health::up(),
            '/slow' => static fn () => Pages::slow((int) ($_GET['ms'] ?? 300)),
            '/busy' => static fn () => Pages::busy((int) ($_GET['ms'] ?? 3000)),
            '/buy' => static fn () => Pages::buy((string) $_GET['id'], (int) $_GET['ms']),
            '/info' => static fn () => ['server' => array_filter($_SERVER, is_string(...)), 'cwd' => getcwd()],
            default => null,
        };
        header('Content-Type: application/json');
        if ($page === null) {
            http_response_code(404);
            echo '{"error":"no such page"}';
            return;
        }
        $answer = $page();
        // Loaded after the page did its work, through what the web server said, as
        // many applications do: a request that was under way while `current` moved
        // would find another release here.
        require $_SERVER['DOCUMENT_ROOT'] . '/../src/late.php';
        require dirname($_SERVER['SCRIPT_FILENAME'], 2) . '/templates/foot.php';
        echo json_encode($answer + [
            'files' => $GLOBALS['files'],
            'generation' => (int) getenv('SUPERD_GENERATION'),
            'cut' => Nap::$cut,
            'pid' => getmypid(),
        ]), "\n";
    }
}
