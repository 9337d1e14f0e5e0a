<?php
// What Composer would write: classes of Shop\ are in src/.

$GLOBALS['files']['vendor/autoload.php'] = '@RELEASE@';

spl_autoload_register(static function (string $class): void {
    if (str_starts_with($class, 'Shop\\')) {
        require __DIR__ . '/../src/' . substr($class, 5) . '.php';
    }
});
